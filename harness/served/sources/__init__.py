"""One file for each kind of file that engines and load generators write, behind one contract."""

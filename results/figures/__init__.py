"""What reports show: one file for each figure, its numbers and its drawing together."""

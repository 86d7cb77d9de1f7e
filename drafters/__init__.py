"""Target, drafters and the lossless decode loop. Imports with torch and transformers alone."""

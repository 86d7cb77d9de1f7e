"""Target, drafters and the lossless decode loop. Imports with torch, transformers and numpy alone."""

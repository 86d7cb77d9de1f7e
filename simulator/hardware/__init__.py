"""How long a step takes: profiles, the arithmetic of a step, datasheets, and the profiles that come with the package."""

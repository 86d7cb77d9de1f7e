"""Plain facts of serving engines, one file each: what they can run, how they draft, their defaults and their flags."""

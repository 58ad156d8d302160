"""Where answers come from. `base` is the seam; each other module is one engine."""

"""Raw downloads: find the scans, check them, read them."""

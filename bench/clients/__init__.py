"""What real clients can do with dmap, as a table made by running them."""

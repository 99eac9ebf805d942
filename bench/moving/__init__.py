"""What an imported configuration is worth: the real llama-swap and dmap beside each other."""

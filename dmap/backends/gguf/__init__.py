"""The embedded engine: GGUF files, each served by a llama.cpp child process."""

"""
The daemon beside its peers: llama-swap, llama.cpp's router and Ollama, on real engines, at the same moment.

`python -m bench.switches --help`; bench/README.md tells where the peers come from.  Everybody runs the same
llama.cpp, slowed down alike (`pace`), and is asked the same questions by the same clients (`clients`).
"""

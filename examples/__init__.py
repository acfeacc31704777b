"""The package in use: in models of transformers, and through Hugging Face's ``kernels`` library."""

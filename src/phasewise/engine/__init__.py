"""The real engine: a decoder of the Llama family that reads a Hugging Face folder or a GGUF file and runs the very plans that
the simulator runs. Heavy libraries (torch, safetensors, gguf, tokenizers) are imported inside this package only, and no module
outside it imports it before it is asked for."""

"""The live server: the control plane in real time, and its OpenAI-compatible face.

The gateway speaks HTTP on one side and, on the other, to whatever keeps the promises of `service`: it knows no engine, no
tokenizer and no wire. Nothing here is imported before somebody serves.
"""

"""What `main.py` does besides running experiments: `python main.py NAME ...` runs `NAME.py`.

Each file has `arguments(parser)`, which adds its flags, and `run(parsed)`, which returns the exit
code. Its docstring is what `--help` says first.
"""

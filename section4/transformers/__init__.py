"""Transformers: text as tokens, attention, and a GPT in NumPy and in PyTorch.

Read in this order: tokenizers, windows, embedding, attention, block, gpt, torch_gpt, generate;
then what else it can learn: masking, tasks.
"""

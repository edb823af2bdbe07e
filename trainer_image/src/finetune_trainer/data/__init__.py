"""From JSONL lines to tokens with labels.

rows        lines -> checked conversations, or file and line of what is wrong
labels      a conversation -> text, and which spans of it are trained
tokens      spans -> token ids and labels
dataset     a whole file: rows, tokens, counts
packing     token rows -> packs, each trained as one sequence
collate     token rows or packs -> one batch
"""

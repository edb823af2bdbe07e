"""From files to tokens with labels.

containers  files -> records: JSON lines, JSON, CSV, Parquet, Arrow
formats     a record -> a conversation, a text or tokens; one file per format
labels      a conversation -> text, and which spans of it are trained
tokens      spans -> token ids, and which are trained
encode      the three steps above, for whichever format of CausalLM
encoders    rows of other tasks -> tokens and targets; one file per task
encoder     the encoder of a run's task
prepare     a whole source: detect the format, doctor its rows, pass a verdict, write shards
shards      the rows on disk, and back from there
key         what decides the shards, as one hash
dataset     what training sees
packing     token rows -> packs, each trained as one sequence
collate     token rows or packs -> one batch
"""

"""From the dataset's URIs to checked, tokenised rows, without a weight: of the model only config and tokenizer.

rows     download, check and tokenise, into the scratch folder
stored   the same rows in storage, below `.finetune/<uid>/prepared/`
model    what model and rows must have in common
memory   what training will take, by our estimate
stage    the `prepare` stage: the four above, and an outcome
"""

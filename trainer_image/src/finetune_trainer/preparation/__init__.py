"""From the dataset's URIs to checked, tokenised rows, without the model: only its tokenizer is needed.

rows     download, check and tokenise, into the scratch folder
stored   the same rows in storage, below `.finetune/<uid>/prepared/`
stage    the `prepare` stage: the two above, and an outcome
"""

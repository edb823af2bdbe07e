"""The command `finetune`: job files without a cluster. Imports the contract, never torch, kopf or the other parts."""

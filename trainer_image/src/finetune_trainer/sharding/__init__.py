"""Several processes share out what one cannot hold: DeepSpeed's ZeRO-2 and ZeRO-3, torch's FSDP2.

strategy    which of them a run uses
zero        DeepSpeed's configuration, made by us, and what it must not do by itself
gathering   parameters and the optimizer's state, whole in every process
trainer     transformers' Trainer whose checkpoints are those of one process, whatever the strategy

What is saved is never a share: the number of processes, and the strategy itself, may change at resume.
"""

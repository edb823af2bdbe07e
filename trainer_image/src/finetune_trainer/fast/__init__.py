"""The same numbers in less time and memory. Each path plugs into transformers or PEFT, and can be undone.

switch          turns on what a model allows, says what, and turns it off again
attention       packed documents attended one by one, never as one square with a mask
blocked         causal attention of one document on a CPU, as matrix products
head            the output head hands out hidden states instead of logits
loss            cross-entropy from hidden states in chunks, with its gradient made on the way
lora            a LoRA linear as one autograd function that keeps little
gemm            float32 matrix products on AMD CPUs
sharding        whether a weight is all here

Whatever does not apply to a model, a layer or a call is left to the libraries, by itself.
"""

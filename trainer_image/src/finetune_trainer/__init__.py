"""The training container: one run file in, one verified adapter or one precise reason out."""

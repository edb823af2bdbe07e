"""How much memory a run will take, told from the model's config alone: no weight is loaded, nothing is computed.

skeleton   the model with its adapter, as shapes without numbers
saved      what one forward pass keeps for its backward pass, counted by running it on shapes
estimate   all parts of the peak, and what would make a run fit
"""

"""How a model is tuned: quantization of the frozen base, and the adapter on top."""

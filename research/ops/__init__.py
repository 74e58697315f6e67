"""Array functions without parameters: convolution, pooling, dropout."""

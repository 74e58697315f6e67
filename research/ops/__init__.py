"""Array functions without parameters, in the forms that are fastest: convolution, dense products, norms, pooling."""

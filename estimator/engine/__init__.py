"""How a step is computed: eagerly, or by a faster way that is proven to give the same."""

"""What touches the model: gradient features, extractors that fill a FeatureTable."""

"""Errors, hashes, files and the FeatureTable; numpy and safetensors only."""

"""Analyses of networks: what layers have in common, what they put out, what a result depends on."""

"""Secrets by reference: read where they are kept, when they are first needed, and never written anywhere else."""

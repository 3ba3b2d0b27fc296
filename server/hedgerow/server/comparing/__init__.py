"""Recipes beside each other on the same splits and seeds: what runs, how it runs at once, and what it comes to."""

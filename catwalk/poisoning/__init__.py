"""Attacked catalogues: which items are attacked, and images and features in their place."""

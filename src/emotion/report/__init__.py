"""The page that puts the published report's figures beside those of our runs."""

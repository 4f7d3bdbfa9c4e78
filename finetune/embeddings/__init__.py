"""What a network makes of images before it classifies them: kept in files, and compared."""

"""Small environments with known solutions, on which algorithms are tested."""

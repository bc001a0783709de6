"""CHITA and CHITA++: least squares over gradient rows, block by block."""

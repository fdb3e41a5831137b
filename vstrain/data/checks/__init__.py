"""Is a data set whole? `verify` says what is wrong with it, `repair` writes the good rest anew."""

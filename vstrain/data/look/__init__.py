"""What is in a data set? `facts` in words and numbers, `sheet` as pictures of samples, `stats` as histograms."""

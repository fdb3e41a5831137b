"""One module a protocol, `find(root, options) -> Listing`: where a data set keeps its images and depth, and in which form."""

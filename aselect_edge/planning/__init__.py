"""What to type for a folder of images, and how long that takes here: it looks at data, selection and training."""

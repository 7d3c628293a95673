crop_size = (128, 128)
iterations = 1000
start = 0.5
batch_size = 4
workers = 0
learning_rate = 3e-3

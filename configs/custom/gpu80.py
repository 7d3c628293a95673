crop_size = (512, 512)
iterations = 40000
start = 0.1
batch_size = 4
workers = 8

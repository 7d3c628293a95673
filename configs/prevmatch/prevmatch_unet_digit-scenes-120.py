_base_ = './prevmatch_unet_digit-scenes-60.py'
train_dataloader = dict(dataset=dict(labeled=dict(ann_file='splits/labeled_120.txt')))

_base_ = './supervised_unet_digit-scenes-60.py'
train_dataloader = dict(dataset=dict(ann_file='splits/labeled_120.txt'))

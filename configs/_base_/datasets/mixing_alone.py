# What the programs of AEL, U2PL and S4MC, which share their data pipeline, and CutMix-Seg have in
# place of papers.py: no photometry on the strong view, as many images shrunk as enlarged, resizing
# without antialiasing, padding in the mean color, after normalization.
loader = dict(
    unlabeled=dict(strong=dict(transforms=None)),
    geometry=dict(resize=dict(law='halves', backend='cv2'), crop=dict(pad_color=None)),
)

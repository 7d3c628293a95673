"""Metrics."""

from .teacher_iou_metric import TeacherIoUMetric

__all__ = ['TeacherIoUMetric']

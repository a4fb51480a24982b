from stylegan_lightning.interop.reference import from_reference, translate_name

__all__ = ["from_reference", "translate_name"]

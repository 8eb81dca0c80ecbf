variable "project_id" {
  description = "Project of the bucket."
  type        = string
}

variable "bucket_name" {
  description = "Name of the bucket for ciphertext, unique in the world."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,53}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name is 3 to 55 of a-z, 0-9 and -, so that -access-logs still fits behind it."
  }
}

variable "location" {
  description = "Region (or pair of regions) of the objects."
  type        = string
}

variable "labels" {
  description = "Labels of both buckets."
  type        = map(string)
}

variable "kms_key_id" {
  description = "KMS key of the objects. What lies in them is sealed anyway."
  type        = string
}

variable "noncurrent_days" {
  description = "Days after which an object that was deleted or written over is gone for good."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1 && var.noncurrent_days <= 365
    error_message = "noncurrent_days must be between 1 and 365."
  }
}

variable "upload_days" {
  description = "Days after which the parts of an upload that never ended are removed."
  type        = number
  default     = 7

  validation {
    condition     = var.upload_days >= 1
    error_message = "upload_days must be at least 1."
  }
}

variable "writers" {
  description = "E-mail addresses of the service accounts that write and read objects, by component."
  type        = map(string)

  validation {
    condition     = length(var.writers) > 0
    error_message = "Somebody has to write objects."
  }
}

variable "force_destroy" {
  description = "Whether Terraform may delete the bucket with all that is in it. For development only."
  type        = bool
}

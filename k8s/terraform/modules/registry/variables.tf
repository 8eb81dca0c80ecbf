variable "project_id" {
  description = "Project of the images."
  type        = string
}

variable "name" {
  description = "Name of the repository."
  type        = string
}

variable "region" {
  description = "Region of the repository. Image streaming wants the cluster's own."
  type        = string
}

variable "labels" {
  description = "Labels of the repository."
  type        = map(string)
}

variable "kms_key_id" {
  description = "KMS key of the images."
  type        = string
}

variable "reader_email" {
  description = "Service account of the machines, which pull images and do nothing else here."
  type        = string
}

variable "versions_kept" {
  description = "Newest versions of each image that are never cleaned away."
  type        = number
  default     = 20

  validation {
    condition     = var.versions_kept >= 5
    error_message = "versions_kept must be at least 5: a rollback needs what ran before."
  }
}

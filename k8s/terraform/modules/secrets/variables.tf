variable "project_id" {
  description = "Project that owns keys and secrets."
  type        = string
}

variable "project_number" {
  description = "Number of the same project; the accounts of Google's services are named by it."
  type        = string
}

variable "name" {
  description = "Prefix of every name, such as strongroom-prod."
  type        = string
}

variable "region" {
  description = "Where keys and secrets are kept."
  type        = string
}

variable "labels" {
  description = "Labels of every secret."
  type        = map(string)
}

variable "rotation_days" {
  description = "Days after which each key gets a new version. Older versions stay to open what they have closed."
  type        = number
  default     = 90

  validation {
    condition     = var.rotation_days >= 1 && var.rotation_days <= 365
    error_message = "rotation_days must be between 1 and 365."
  }
}

variable "protection_level" {
  description = "Where keys are used: SOFTWARE, or HSM for a hardware module."
  type        = string
  default     = "HSM"

  validation {
    condition     = contains(["SOFTWARE", "HSM"], var.protection_level)
    error_message = "protection_level must be SOFTWARE or HSM."
  }
}

variable "secret_readers" {
  description = "For each secret the e-mail addresses of the service accounts that may read it."
  type        = map(list(string))

  validation {
    condition     = alltrue([for readers in values(var.secret_readers) : length(readers) > 0])
    error_message = "Every secret needs at least one reader; one that nobody reads should not exist."
  }
}

variable "keybroker_email" {
  description = "Service account of the key store that stands behind the key broker; it alone may use the KEK."
  type        = string
}

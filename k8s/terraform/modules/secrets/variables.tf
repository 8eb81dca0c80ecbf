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

variable "rotation_period" {
  description = "After how many seconds each key gets a new version, such as 7776000s (90 days). Older versions stay to open what they have closed."
  type        = string
  default     = "7776000s"

  validation {
    condition     = can(regex("^[0-9]+s$", var.rotation_period)) && try(tonumber(trimsuffix(var.rotation_period, "s")) >= 86400 && tonumber(trimsuffix(var.rotation_period, "s")) <= 7776000, false)
    error_message = "rotation_period must be between 86400s and 7776000s."
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

variable "components" {
  description = "Components that have a secret of their own: a JSON object, as the chart's external secrets expect it."
  type        = set(string)

  validation {
    condition     = length(var.components) > 0
    error_message = "components must not be empty."
  }
}

variable "reader_email" {
  description = "Service account of the operator that copies secrets into the cluster; it alone may read them."
  type        = string
}

variable "keybroker_email" {
  description = "Service account of the key store that stands behind the key broker; it alone may use the KEK."
  type        = string
}

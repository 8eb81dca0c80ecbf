variable "project_id" {
  description = "Project of the cache."
  type        = string
}

variable "name" {
  description = "Name of the instance."
  type        = string
}

variable "region" {
  description = "Region of the instance."
  type        = string
}

variable "labels" {
  description = "Labels of the instance."
  type        = map(string)
}

variable "network_id" {
  description = "Network from which the cache is reached."
  type        = string
}

variable "private_services_range_name" {
  description = "Range that its private address is taken from."
  type        = string
}

variable "kms_key_id" {
  description = "KMS key of what it writes to disk."
  type        = string
}

variable "memory_size_gb" {
  description = "Memory. It holds the queue of tasks, limits and streams that are under way: little."
  type        = number

  validation {
    condition     = var.memory_size_gb >= 1 && var.memory_size_gb <= 300
    error_message = "memory_size_gb must be between 1 and 300."
  }
}

variable "highly_available" {
  description = "Whether a copy in another zone takes over."
  type        = bool
}

variable "redis_version" {
  description = "Version, such as REDIS_7_2. KEDA's scalers and the streams need 7."
  type        = string
  default     = "REDIS_7_2"

  validation {
    condition     = can(regex("^REDIS_([7-9]|[1-9][0-9])_[0-9X]+$", var.redis_version))
    error_message = "redis_version must be REDIS_7_… or newer."
  }
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the instance."
  type        = bool
}

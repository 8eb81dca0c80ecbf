variable "project_id" {
  description = "Project of the database."
  type        = string
}

variable "name" {
  description = "Name of the instance. One that was deleted stays taken for a week."
  type        = string
}

variable "region" {
  description = "Region of the instance and of its backups."
  type        = string
}

variable "labels" {
  description = "Labels of the instance."
  type        = map(string)
}

variable "network_id" {
  description = "Network from which the database is reached."
  type        = string
}

variable "private_services_range_name" {
  description = "Range that its private address is taken from."
  type        = string
}

variable "kms_key_id" {
  description = "KMS key of its disks and backups."
  type        = string
}

variable "tier" {
  description = "Machine, such as db-custom-4-16384: 4 cores, 16384 MiB."
  type        = string

  validation {
    condition     = can(regex("^db-(custom|perf-optimized)-", var.tier))
    error_message = "tier must be db-custom-… or db-perf-optimized-…: shared cores have no promise of availability."
  }
}

variable "highly_available" {
  description = "Whether a standby in another zone takes over."
  type        = bool
}

variable "disk_size_gb" {
  description = "Disk at the start; it grows by itself."
  type        = number
}

variable "disk_size_gb_max" {
  description = "Up to which size it grows by itself; 0 is no limit."
  type        = number
  default     = 0

  validation {
    condition     = var.disk_size_gb_max == 0 || var.disk_size_gb_max >= var.disk_size_gb
    error_message = "disk_size_gb_max must be 0 or at least disk_size_gb."
  }
}

variable "backups_kept" {
  description = "Daily backups that are kept."
  type        = number

  validation {
    condition     = var.backups_kept >= 7 && var.backups_kept <= 365
    error_message = "backups_kept must be between 7 and 365."
  }
}

variable "log_retention_days" {
  description = "Days to any moment of which the database can be set back; 7 at most in this edition."
  type        = number
  default     = 7

  validation {
    condition     = var.log_retention_days >= 1 && var.log_retention_days <= 7
    error_message = "log_retention_days must be between 1 and 7."
  }
}

variable "connections_max" {
  description = "Connections at once. A gateway holds a pool of its own and one that listens; see docs/operations.md."
  type        = number
  default     = 400

  validation {
    condition     = var.connections_max >= 100 && var.connections_max <= 5000
    error_message = "connections_max must be between 100 and 5000."
  }
}

variable "deletion_protection" {
  description = "Whether Terraform and the API refuse to delete the instance."
  type        = bool
}
